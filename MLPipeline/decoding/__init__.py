"""One image file in, one upright 8-bit RGB picture out: headers, decoders, colour, levels, and how a square is made."""
