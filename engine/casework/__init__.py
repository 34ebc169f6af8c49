"""Cases: what people look into, decide, and what follows from their decision."""
