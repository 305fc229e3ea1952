"""The commands, by what they are about. Importing a module registers its commands."""
