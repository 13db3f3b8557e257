"""The steps between a converter and a prepared dataset; an interrupted preparation goes on."""
