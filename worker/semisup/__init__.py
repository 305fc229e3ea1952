"""SemiEvol (arXiv 2410.14745) as a library: it knows no HTTP, no Celery and no database. Holds nothing itself."""
