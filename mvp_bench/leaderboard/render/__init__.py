"""The leaderboards as files, as a picture and in the terminal."""
