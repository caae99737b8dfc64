"""What happens to data, in the order it happens: each stage is a kernel and its place in the Ray graph."""
