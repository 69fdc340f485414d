"""The model, its loss and its rows: what is differentiated, and what can be told of it without a derivative."""
