"""Who is in two datasets: identity by ids and crosswalks, and by the images themselves."""
