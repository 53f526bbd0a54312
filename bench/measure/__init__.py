"""What the benches share: a bench's command line, tables, JSON and the machine (report), processes and `rtskel serve`
(processes), publishers and subscribers as load (loads), engines alone (engines), synthetic poses (poses), composed
sentences (composed), a browser (browser).
"""
