"""One file per data set (or family); every file here is found and registered by itself."""
