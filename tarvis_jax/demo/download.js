(file) => {
  if (!file) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name ?? '';
  document.body.append(link);
  link.click();
  link.remove();
}
