"""Side-by-side runs against what people would use instead; each module prints one table."""
