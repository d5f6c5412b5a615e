"""The machine's Chromium, if there is one."""

import shutil

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")), None)
