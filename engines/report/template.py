"""The HTML around a report; braces are those of `str.format`."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>stepcarve parity {state}: {bundle}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2730; background: #fff; max-width: 1080px;
        margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: .5rem; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
.verdict {{ padding: .7rem 1rem; border-radius: .4rem; color: #fff; font-weight: 500; }}
.verdict.holds, .holds .badge {{ background: #1e7d4f; }}
.verdict.fails, .fails .badge {{ background: #b3261e; }}
.badge {{ color: #fff; border-radius: .3rem; padding: .05rem .5rem; font-size: .85rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: baseline; }}
thead th {{ border-bottom: 1px solid #cdd5dc; font-weight: 500; color: #566573; white-space: nowrap; }}
tbody th {{ font-weight: 500; }} .facts th {{ color: #566573; }}
td {{ font-variant-numeric: tabular-nums; }} small {{ color: #566573; white-space: nowrap; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1rem; }} figure {{ margin: 0; width: 192px; }}
.pictures img {{ width: 190px; image-rendering: pixelated; border: 1px solid #cdd5dc; }}
figcaption {{ font-size: .85rem; color: #566573; }}
.drawing svg {{ width: 100%; height: auto; }} .small {{ font-size: .9rem; color: #566573; }}
</style>
</head>
<body>
<h1>Parity of {bundle}</h1>
<p class="verdict {state}" id="verdict">{verdict}</p>
{failures}
<h2>The ladder</h2>
<div class="wide"><table id="rungs"><thead><tr><th>rung</th><th>against</th><th>worst call</th>
<th>worst input</th><th>final latents</th><th>decoder</th><th>picture</th><th>second pass</th><th></th>
</tr></thead><tbody>{rungs}</tbody></table></div>
<p class="small">Errors are relative L2 norms. A floor is what rounding alone makes: PyTorch in the engine's
precision against PyTorch in more digits, on the same latents. A rung holds if no error is above {k}
floors. “Worst call”: every call gets PyTorch's own inputs and caches. “Worst input”: the engine follows
its own way, and the denoiser's inputs are compared.</p>
{notes}
<h2>Error per step</h2>
{errors}
<h2>Pictures of “{prompt}”</h2>
<div class="pictures">{pictures}</div>
<h2>Which block is computed at which step</h2>
{grid}
<h2>Calls that are off most</h2>
<div class="wide"><table><thead><tr><th>engine</th><th>call</th><th>step</th><th>graph</th><th>tensor</th>
<th>error</th><th>floor</th><th>largest</th><th>PSNR</th><th>cosine</th></tr></thead>
<tbody>{worst}</tbody></table></div>
<h2>What was compared</h2>
<table class="facts"><tbody>{facts}</tbody></table>
<h2>Environment</h2>
<table class="facts"><tbody>{environment}</tbody></table>
</body>
</html>
"""
