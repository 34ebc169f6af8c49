"""How large a deployment must be: figures of a machine in, a plan out."""
