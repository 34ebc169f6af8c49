"""What leaves when its time is over, and the certificates that say so."""
