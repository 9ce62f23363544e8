"""Reading and writing: every byte from outside passes `gate`, every file leaves through `masam.atomic`."""
