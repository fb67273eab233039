"""Results → numbers and pictures; reads logs/, never a host."""
