"""How a grid's report and a run's card look."""

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 2rem auto; max-width: 1280px; padding: 0 1.5rem;
  color: #1f2328; background: #fff }
h1 { margin: 0 0 .3rem; font-size: 1.9rem }
h2 { margin: 2.4rem 0 .7rem; font-size: 1.15rem }
.verdict { font-size: 1.02rem; margin: .6rem 0 1.2rem; padding: .8rem 1rem .8rem 2.2rem; background: #f3f7fb;
  border-left: 4px solid #0072b2 }
.bad { color: #b3261e }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem 1.5rem; margin: 0 }
dl div { min-width: 0 }
dl .long { grid-column: 1 / -1 }
dt { font-size: .78rem; color: #667; text-transform: uppercase; letter-spacing: .03em }
dd { margin: 0; overflow-wrap: anywhere }
.long dd { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85rem }
.wide, pre { overflow-x: auto }
code { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; white-space: nowrap }
th, td { padding: .3rem .4rem; text-align: right; border-bottom: 1px solid #e3e6ea }
th { font-weight: 600; color: #445; border-bottom-color: #b8bec6 }
thead tr:first-child:not(:last-child) th { border-bottom: 0; text-align: center; padding-bottom: 0 }
th:first-child, td:first-child, .text { text-align: left }
td:first-child { font-weight: 600; white-space: normal; overflow-wrap: anywhere; min-width: 9rem }
.first { border-left: 1px solid #e3e6ea }
.main { font-weight: 600; white-space: pre }
.small { color: #667 }
.better { color: #00694b; font-weight: 600 } .worse { color: #b3261e; font-weight: 600 }
.reference td { color: #667; font-style: italic; font-weight: 400; background: #fafbfc }
tbody tr:hover td { background: #f3f7fb }
.note { color: #556; font-size: .88rem; max-width: 62rem; margin: .4rem 0 }
"""
