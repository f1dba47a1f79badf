"""How a panel looks: JupyterLab's own colours, so that it follows the theme."""

from __future__ import annotations

import ipywidgets

_CSS = """
.nbgen-panel {
  --nb-ink: var(--jp-ui-font-color1, #1f2328);
  --nb-soft: var(--jp-ui-font-color2, #57606a);
  --nb-line: var(--jp-border-color2, #d0d7de);
  --nb-good: var(--jp-success-color1, #1a7f37);
  --nb-warn: var(--jp-warn-color1, #b25f00);
  --nb-bad: var(--jp-error-color1, #b42318);
  box-sizing: border-box; max-width: 720px; padding: 16px; margin: 4px 0;
  border: 1px solid var(--nb-line); border-radius: 8px;
  background: var(--jp-layout-color1, #fff); color: var(--nb-ink); overflow: hidden;
}
.nbgen-panel .jupyter-widgets { margin: 0; }
.nbgen-panel .widget-html, .nbgen-panel .widget-checkbox { color: var(--nb-ink); }
.nbgen-panel .widget-vbox, .nbgen-panel.widget-vbox { gap: 12px; overflow: visible; }
.nbgen-panel .widget-vbox:empty { display: none; }
.nbgen-panel .widget-hbox { gap: 12px; flex-wrap: wrap; overflow: visible; }
.nbgen-panel .nbgen-field { flex: 1 1 100%; width: auto; height: auto; min-width: 0;
  flex-direction: column; align-items: stretch; }
.nbgen-panel .nbgen-field > label { width: auto; text-align: left; height: 20px;
  line-height: 20px; margin: 0 0 2px; color: var(--nb-soft); font-size: 12px; }
.nbgen-panel .nbgen-field textarea { min-height: 0; resize: vertical; height: auto; }
.nbgen-panel .nbgen-field input { height: 30px; margin: 0; flex: none; }
.nbgen-panel .nbgen-field select { height: 30px; margin: 0; width: 100%; flex: none;
  appearance: auto; background-image: none; color: var(--nb-ink);
  box-sizing: border-box; border-radius: 4px; font-size: 13px; }
.nbgen-panel .nbgen-field input, .nbgen-panel .nbgen-field textarea {
  box-sizing: border-box; width: 100%; border-radius: 4px; font-size: 13px;
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); }
.nbgen-panel .nbgen-grid { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); }
.nbgen-panel .widget-checkbox { width: auto; align-self: flex-start; }
.nbgen-panel .widget-checkbox label { align-items: center; }
.nbgen-panel .nbgen-actions { align-items: center; }
.nbgen-panel .jupyter-button { width: auto; min-width: 96px; height: 32px;
  line-height: 32px; padding: 0 16px; border-radius: 4px; font-size: 13px; }
.nbgen-panel .jupyter-button:focus-visible { outline: 2px solid
  var(--jp-brand-color1, #0969da); outline-offset: 2px; }
.nbgen-panel .widget-hprogress { width: 100%; height: 8px; margin: 0; padding: 0; }
.nbgen-panel .widget-hprogress .progress { height: 8px; margin: 0; border: 0;
  border-radius: 4px; background: var(--jp-layout-color3, #e1e4e8); overflow: hidden; }
.nbgen-panel .progress-bar { transition: width 0.12s linear; }
.nbgen-panel .nbgen-progress { gap: 6px; }
.nbgen-panel .widget-html { width: 100%; height: auto; }
.nbgen-panel .widget-html-content { line-height: 1.45; font-size: 13px; }
.nbgen-panel .nbgen-line { display: flex; flex-wrap: wrap; gap: 2px 16px;
  justify-content: space-between; }
.nbgen-panel .nbgen-soft { color: var(--nb-soft);
  font-variant-numeric: tabular-nums; }
.nbgen-panel .nbgen-notice { align-items: center; padding: 2px 0 2px 10px;
  border-left: 3px solid var(--nb-warn); }
.nbgen-panel .nbgen-notice .widget-html { flex: 1 1 200px; width: auto; }
.nbgen-panel .nbgen-error { color: var(--nb-bad); overflow-wrap: anywhere;
  border-left: 3px solid var(--nb-bad); padding: 2px 0 2px 10px; }
.nbgen-panel .nbgen-verdict { padding: 2px 0 2px 10px; overflow-wrap: anywhere;
  border-left: 3px solid var(--nb-good); }
.nbgen-panel .nbgen-verdict.rejected, .nbgen-panel .nbgen-verdict.changes_requested {
  border-color: var(--nb-bad); }
.nbgen-panel .nbgen-verdict ~ div { margin-top: 6px; }
.nbgen-panel a { color: var(--jp-content-link-color, #0969da);
  text-decoration: underline; }
.nbgen-panel .widget-image { width: min(100%, 320px); height: auto;
  object-fit: contain; border-radius: 6px; border: 1px solid var(--nb-line); }
.nbgen-panel .nbgen-review { border-top: 1px solid var(--nb-line);
  padding-top: 12px; }
"""


def style_sheet() -> ipywidgets.HTML:
    """Return the widget that carries the style sheet; it shows nothing itself."""
    sheet = ipywidgets.HTML(f"<style>{_CSS}</style>")
    sheet.layout.display = "none"
    return sheet
