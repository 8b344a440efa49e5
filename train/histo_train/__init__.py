"""Train the VGG19 patch classifier in Keras 3, on any of its backends."""
