"""One file per stage: data in, frozen data out. No stage knows of resume, progress bars or cancel."""
