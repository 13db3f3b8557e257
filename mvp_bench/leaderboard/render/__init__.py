"""The leaderboards for people: a picture and the terminal."""
