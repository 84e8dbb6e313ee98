"""What is wrong with the images, and what to do about it: found without training."""
