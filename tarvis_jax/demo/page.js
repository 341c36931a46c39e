// Gradio's lists open again when the tabulator leaves them: they do not get to know of that key.
() => document.addEventListener('keydown', event => {
  if (event.key === 'Tab' && event.target.matches('input[role=combobox]')) event.stopPropagation();
}, true)
