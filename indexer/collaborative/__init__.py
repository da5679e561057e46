"""The collaborative model: EASE on interactions and on personas as hypothetical users."""
