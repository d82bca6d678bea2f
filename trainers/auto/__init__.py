"""What `auto` means: facts of data and device, and the rules that choose by them."""
