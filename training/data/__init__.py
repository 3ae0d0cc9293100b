"""From a source of captioned images to training batches."""
