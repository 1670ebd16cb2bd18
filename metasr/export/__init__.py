"""A generator for other programs: encoder and decoder as ONNX, for any size. The home of onnx and onnxruntime."""
