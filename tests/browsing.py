"""Pages in a real browser: headless Chromium, driven by selenium, where both are installed."""

import shutil
import time
from pathlib import Path

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FILLED_ROWS = """
function filled(canvas) {  // part of the rows in which something is drawn
  const copy = Object.assign(document.createElement('canvas'),
                             {width: canvas.width, height: canvas.height});
  const context = copy.getContext('2d', {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const words = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
  let rows = 0;
  for (let j = 0; j < copy.height; j++)
    rows += words.subarray(j * copy.width, (j + 1) * copy.width).some((word) => word !== 0);
  return rows / copy.height;
}
"""


def start(profile: Path):
    """Start a browser; skip the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium, chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    switches = "headless no-sandbox disable-gpu no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync window-size=1300,1000"
    for switch in [*switches.split(), f"user-data-dir={profile}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))


def wait_for(page, script, seconds=20):
    """Poll a script until it returns something true."""
    end = time.monotonic() + seconds
    while not (value := page.execute_script(f"return {script}")):
        assert time.monotonic() < end, f"{script} stayed {value!r}"
        time.sleep(0.05)
    return value
