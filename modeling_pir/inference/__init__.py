"""The model at work on images and sentences, without training."""
