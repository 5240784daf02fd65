"""R3's clip band (lambda): does it matter where probabilities are cut? (`lambda` itself is a word of the language.)"""
