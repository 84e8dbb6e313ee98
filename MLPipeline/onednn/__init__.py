"""Networks rewritten to the fused kernels of oneDNN, torch's library for CPUs: in floating point and in 8 bits."""
