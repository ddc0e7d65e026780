"""Trainable steering methods, one file each: its constructor, and how it is fitted."""
