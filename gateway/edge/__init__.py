"""The HTTP surface that is no dialect: authentication, files, health, administration."""
