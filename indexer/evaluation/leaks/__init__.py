"""Does a held-out interaction reach anything that is made before scoring?"""
