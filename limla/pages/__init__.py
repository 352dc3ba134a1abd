"""What the self-contained HTML pages of several stages are made of: plots, drawings, tables; knows no stage's rows."""
