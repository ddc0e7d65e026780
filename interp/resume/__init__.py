"""Work that goes on from where it stopped: atomic files, work folders, unfinished training."""
