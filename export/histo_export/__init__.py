"""Turn a Keras classifier into one ONNX file with test-time augmentation fused inside."""
