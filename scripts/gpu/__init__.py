"""What scripts/check_gpu.py measures; every part takes the device as a parameter, so that tests run it on a CPU."""
