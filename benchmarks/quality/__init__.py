"""Does the method help? Tasks x seeds x arms on real data, as pieces that can be run in any order and put into one table."""
