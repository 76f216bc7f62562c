"""Compression inside other people's training loops; import the module that you need."""
