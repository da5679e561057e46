"""`p4r experiment`: one file that describes it, one folder that holds everything it found."""
