"""Datasets as workers read them: shards in formats that cannot run code, checked before they are believed."""
