#include "native.h"

PyDoc_STRVAR(dispatch_doc,
"dispatch(frames, tables, grows, unusual)\n--\n\n"
"Gives every message to the step of its entry; `unusual` gets the index of each that needs a closer look. `grows` says\n"
"whether `tables` may grow meanwhile.");

static PyMethodDef methods[] = {
    {"dispatch", dispatch, METH_VARARGS, dispatch_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "What refold does for every message, in C.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    PyTypeObject *types[] = {&Frames_Type, &Parser_Type, &EnvelopeDecoder_Type, &OwnStep_Type, &RowCodec_Type,
                             &StructDecoder_Type, &Views_Type};
    if (envelope_init() < 0 || rows_init() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    for (size_t i = 0; module != NULL && i < sizeof(types) / sizeof(types[0]); i++)
        if (PyModule_AddType(module, types[i]) < 0)
            Py_CLEAR(module);
    return module;
}
