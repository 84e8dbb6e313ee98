"""Writing without loss: atomic files, tables, tensors, the cache, run folders, downloads."""
