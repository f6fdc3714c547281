"""Which slides there are, and fetching them: files, folders, manifests, DICOM series and URLs.

`finding` makes a `task.SlideTask` of each, also of `manifests` and `addresses`; `remote_slides` lists and downloads
what has a URL, and `staging` copies the next slide to a fast disk. What cannot be a slide becomes a task with a problem
and takes no other with it. Nothing here opens a slide.
"""
