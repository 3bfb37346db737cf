"""One run in several processes, which torchrun or `accelerate launch` has started."""
