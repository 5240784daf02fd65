"""What a judge is worth: can it be fooled, does the order matter, does it agree with programs and with people."""
