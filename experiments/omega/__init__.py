"""R3's sharpness: where does it help, where does it hurt?"""
