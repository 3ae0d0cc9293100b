"""Inference with trained models on images and sentences."""
