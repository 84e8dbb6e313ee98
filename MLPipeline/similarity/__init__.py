"""The features of images: computed, stored in a file, and compared to find similar images."""
