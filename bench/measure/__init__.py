"""What the benches share: arguments, tables, JSON and the machine (report), processes and servers (processes), engines
alone (engines), publishers and subscribers as load (loads), synthetic poses (poses).
"""
