"""Networks as ONNX graphs, in fp32 and in 8 bits: for the frozen part of training, and for export."""
